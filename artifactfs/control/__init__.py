"""How a mount reports on itself and takes commands: counters, health, the files in /.artifactfs, their client."""
