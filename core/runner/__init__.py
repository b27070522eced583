"""Jobs: one detached runner a workspace, each job a process group of its own that outlives whoever asked for it."""
