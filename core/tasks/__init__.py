"""What a job does in its own process, one file a kind. Nothing here is imported by a client or the runner."""
