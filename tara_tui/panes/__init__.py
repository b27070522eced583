"""One file a pane of the console."""
