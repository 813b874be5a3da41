"""Foreign text made harmless: names of models and tasks, tokens and labels may hold anything."""


def inert(text: str) -> str:
    """The text with every control, direction and line-breaking character shown as a replacement mark."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
