"""What a desktop is given for one user: names for the files of machine learning, a launcher, an icon.

Knows the mount by the command line alone. `share/` holds what is installed, `files` where it goes, `install` how it
gets there and goes again, `opening` what the launcher does.
"""
