"""The product's acceptance: what it was made for, done by its commands and looked at from outside."""
