"""The kernel's view of the tree. The only room that knows pyfuse3."""
