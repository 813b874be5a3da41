"""Settings of methods and of learning, by name: checked, converted to the types of their fields, with a clear error."""

from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from subcircuit.errors import SettingsError, UnknownNameError

T = TypeVar("T")


def settings_of(
    owner: str,
    kind: type[T],
    given: Mapping[str, Any],
    seed: int | None = None,
    others: Mapping[str, Collection[str]] | None = None,
) -> T:
    """Settings of a frozen dataclass from values by name.

    Args:
        owner: the method or ablation in words, for messages.
        kind: the dataclass of the settings.
        given: values by name; texts are converted to the fields' types.
        seed: random seed if the dataclass has one and ``given`` does not name it.
        others: the settings of other owners by their names, to name those that do have an unknown setting.

    Raises:
        UnknownNameError: nothing has a setting of this name.
        SettingsError: only others have the setting, its value has the wrong type, or a required setting is missing.
    """
    known = {field.name: field.default is MISSING for field in fields(kind)}  # pyright: ignore[reportArgumentType]
    for name in given:
        if name not in known:
            having = sorted(other for other, names in (others or {}).items() if name in names)
            if having:
                raise SettingsError(f"{owner} has no setting {name!r}: it is a setting of {', '.join(having)}")
            raise UnknownNameError(f"setting of {owner}", name, tuple(known))
    values = dict(given) if seed is None or "seed" not in known else {"seed": seed, **given}
    for name, required in known.items():
        if required and values.get(name) is None:
            raise SettingsError(f"{owner} needs --{name.replace('_', '-')}")
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(f"{first['loc'][0]} of {owner} is {first['input']!r}: {first['msg']}") from None
