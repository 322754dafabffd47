"""`artifactfs download`: copies of runs, directories and files on the local disk, with or without a mount."""
