"""The desktop integration of one user: file types of machine learning, a launcher, an icon.

Uses the mount through the command line alone. `share/` holds the installed files, `desktop_files` their places,
`install` installs and removes them, `opening` is the launcher.
"""
