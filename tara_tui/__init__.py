"""The console: what a person sees and presses. No work is done here."""
