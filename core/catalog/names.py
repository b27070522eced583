"""What a domain, base or preset may be called: such names become files and folders."""

import re

LONGEST_NAME = 64
_DOMAIN = re.compile(r"[a-z][a-z0-9_]*")
_BASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def is_domain_name(name: object) -> bool:
    """Whether `name` can name a domain: a lower-case word of letters, digits and underscores, safe as a file name."""
    return isinstance(name, str) and len(name) <= LONGEST_NAME and _DOMAIN.fullmatch(name) is not None


def is_base_name(name: object) -> bool:
    """Whether `name` can name a base model generically: letters, digits, dot, dash, underscore; no path in it."""
    return isinstance(name, str) and len(name) <= LONGEST_NAME and _BASE.fullmatch(name) is not None
