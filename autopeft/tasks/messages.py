"""The messages of a conversation, as a source has them."""

import json
from reprlib import repr as shortened

ANSWERS = "assistant"
"""The role of who answers."""


def parted(messages: object) -> tuple[str, str]:
    """What precedes the last answer, as JSON, and that answer.

    Args:
        messages: a list of objects with `role` and `content`.

    Raises:
        ValueError: it is something else; the message says what is wrong.
    """
    if not isinstance(messages, list) or len(messages) < 2:  # noqa: PLR2004
        raise ValueError(f"is {shortened(messages)}, not a list of two messages or more")
    *before, (role, answer) = [_message(i, one) for i, one in enumerate(messages, 1)]
    if role != ANSWERS:
        raise ValueError(f"ends with a message of '{role}'; the answer is that of '{ANSWERS}'")
    told = [{"role": role, "content": content} for role, content in before]
    return json.dumps(told, ensure_ascii=False), answer


def _message(number: int, message: object) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise ValueError(f"has message {number} that is {shortened(message)}, not an object")  # noqa: TRY004  # of a row, not of a caller
    given = {key: value for key, value in message.items() if value is not None}
    if unknown := sorted(set(given) - {"role", "content"}):
        raise ValueError(f"has message {number} with '{unknown[0]}', which is not read")
    for key in ("role", "content"):
        value = given.get(key)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"has message {number} whose {key} is {shortened(value)}, not a text")
    return str(given["role"]), str(given["content"])
