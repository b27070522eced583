"""What people write that looks like a model's special tokens, made to be read as plain words.

Training and chat both pass messages through here before the chat template is applied, so that nobody's text can end a
turn or begin another, and both see the same tokens.
"""

from collections.abc import Collection, Sequence


def spelled_out(text: str, special: Collection[str]) -> str:
    """The text with a space after the first character of whatever is one of the `special` tokens."""
    for token in sorted((one for one in special if len(one) > 1 and one in text), key=len, reverse=True):
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def plain_messages(messages: Sequence[dict[str, str]], special: Collection[str]) -> list[dict[str, str]]:
    """Messages whose content holds none of the `special` tokens."""
    return [{**message, "content": spelled_out(message["content"], special)} for message in messages]
