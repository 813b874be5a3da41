"""``--config FILE``: options from a YAML or TOML file, or from the record of a search.

The keys of a file are the names of the command's options (and of its argument, in lower case). Options on the command line
override the file. A ``run.json``, a ``circuit.json``, or their directory gives the recorded options.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, no_type_check

import typer

from subcircuit.errors import SettingsError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Mapping

_LARGEST = 1 << 20
_ENDS = (".yaml", ".yml", ".toml", ".json")
# options that are tables of NAME=VALUE, and options that may be repeated
_TABLES = ("set", "settings", "target")
_LISTS = (*_TABLES, "method", "methods")


@no_type_check  # Typer passes a context that is not of the class by which it asks us to name it
def configure(context: typer.Context, file: Path | None) -> Path | None:
    """Make the options of the file the defaults of the command's options."""
    if file is not None:
        names = {}
        for parameter in context.command.params:
            spoken = [word.lstrip("-") for word in parameter.opts] + [parameter.name]
            names |= {word.replace("-", "_").lower(): parameter.name for word in spoken if len(word) > 1}
        hidden = {"config", "help"}
        context.default_map = defaults(file, {word: name for word, name in names.items() if name not in hidden})
    return file


Config: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        is_eager=True,
        callback=configure,
        expose_value=False,
        help="File of options: YAML, TOML, or a run's directory. Options on the command line override it.",
    ),
]


def defaults(file: Path, names: dict[str, str]) -> dict[str, Any]:
    """The values of a command's parameters in a file.

    Args:
        names: the parameter of every possible key.

    Raises:
        SettingsError: the file cannot be read, or an option has an invalid value.
        UnknownNameError: the command has no option of this name.
    """
    content, recorded = _read(file)
    said: dict[str, Any] = {}
    for key, value in content.items():
        name = names.get(str(key).replace("-", "_"))
        if name is None and not recorded:
            raise UnknownNameError(
                "option", str(key)[:80], tuple(sorted(word.replace("_", "-") for word in names)), f"In {file}."
            )
        if name is not None and name in said:
            raise SettingsError(f"{file}: {key} sets an option that another key already sets: remove one")
        if name is not None and value is not None:
            said[name] = _value(file, str(key), value)
    return said


def _read(file: Path) -> tuple[dict[str, Any], bool]:
    """The options in a file, and whether a search recorded them."""
    if file.is_dir():
        file = next((file / name for name in ("run.json", "circuit.json") if (file / name).exists()), file / "circuit.json")
    suffix = file.suffix.lower()
    if suffix not in _ENDS:
        raise SettingsError(f"--config {file}: expected a .yaml or .toml file, a run.json or circuit.json, or their directory")
    if suffix == ".json":
        return _of_run(file) if file.name == "run.json" else _of_circuit(file), True
    try:
        with file.open("rb") as stream:
            text = stream.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise SettingsError(f"--config {file}: the file is larger than {_LARGEST >> 20} MB, the limit for configurations")
        content = _toml(text) if suffix == ".toml" else _yaml(text)
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"--config {file} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(content, dict):
        raise SettingsError(f"--config {file}: expected one `option: value` per line")
    return content, False


def _toml(text: bytes) -> Any:
    import tomllib

    return tomllib.loads(text.decode())


def _yaml(text: bytes) -> Any:
    """YAML without object types and without duplicate keys."""
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        keys = [key.value for key, _ in root.value] if isinstance(root, yaml.MappingNode) else []
        twice = next((key for index, key in enumerate(keys) if key in keys[:index]), None)
        if twice is not None:
            raise ValueError(f"the key {twice!r} occurs twice")
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error).replace("\n", " ")) from None


def _value(file: Path, key: str, value: Any) -> Any:
    """A value in the form of the command line: texts, numbers, switches, lists, and tables of settings as NAME=VALUE."""
    match value:
        case bool() | int() | float() | str():
            return value
        case list() if all(isinstance(item, str | int | float) for item in value):
            return [str(item) for item in value] if key in _LISTS else ",".join(map(str, value))
        case dict() if key in _TABLES:
            return [f"{name}={_word(file, key, one)}" for name, one in _flat(value)]
        case _:
            raise SettingsError(f"{file}: {key} must be a text, a number, true or false, or a list of these")


def _flat(table: dict[Any, Any]) -> list[tuple[str, Any]]:
    """``steps: 5`` and, one level down, ``eap-ig-inputs: {steps: 5}``."""
    flat: list[tuple[str, Any]] = []
    for name, value in table.items():
        inner = value.items() if isinstance(value, dict) else None
        flat += [(str(name), value)] if inner is None else [(f"{name}.{key}", one) for key, one in inner]
    return flat


def _word(file: Path, key: str, value: Any) -> str:
    if value is None:
        return "none"
    if not isinstance(value, bool | int | float | str):
        raise SettingsError(f"{file}: every setting in {key} must be a text, a number, or true or false")
    return str(value)


def _of_run(file: Path) -> dict[str, Any]:
    """The options of a run."""
    from subcircuit.runs import read_run, run_sources

    run = read_run(file.parent)
    return run.fields | _paths(run.fields, run_sources(file.parent, run.fields, run.identity))


def _of_circuit(file: Path) -> dict[str, Any]:
    """The options of the search that found a circuit."""
    from subcircuit.graph import Circuit
    from subcircuit.runs import run_sources
    from subcircuit.runs.spec import DiscoverSpec

    circuit = Circuit.load(file)
    if circuit.record is None:
        raise SettingsError(f"--config {file}: the circuit has no record of its search")
    options = DiscoverSpec.of_circuit(circuit).model_dump(mode="json")
    digests = {"model_files": circuit.record.model.revision, "prompt_file": circuit.record.task.parameters.get("sha256")}
    return options | _paths(options, run_sources(file, options, digests))


def _paths(options: dict[str, Any], sources: "Mapping[str, str | None]") -> dict[str, str]:
    """Paths of the files that options name; a file that is not found stays a path, so that nothing else of its name is taken."""
    return {name: f"./{options[name]}" if source is None else source for name, source in sources.items()}
