"""Every quantization with every technique, built for a phase from the command line and from the console."""
