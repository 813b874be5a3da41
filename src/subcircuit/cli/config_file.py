"""``--config FILE``: options out of a YAML or TOML file, or out of what a search recorded.

The keys of a file are the names of the command's options (and of its argument, in small letters). What is said on the command
line counts more. A ``run.json``, a ``circuit.json``, or the directory they are in, stands for the options with which it was found.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, no_type_check

import typer

from subcircuit.errors import SettingsError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from subcircuit.graph import Record

_LARGEST = 1 << 20
_ENDS = (".yaml", ".yml", ".toml", ".json")


@no_type_check  # Typer passes a context that is not of the class by which it asks us to name it
def configure(context: typer.Context, file: Path | None) -> Path | None:
    """Make what the file says the defaults of the command's options."""
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
        help="Options from a YAML or TOML file, or from a run's directory; options given here count more.",
    ),
]


def defaults(file: Path, names: dict[str, str]) -> dict[str, Any]:
    """What a file says of a command's parameters.

    Args:
        names: the parameter that a key means, for every key there can be.

    Raises:
        SettingsError: the file cannot be read, or says of an option what it cannot be.
        UnknownNameError: a key that the command does not have.
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
            raise SettingsError(f"{file}: {key} says again what another key has said")
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
        return _asked(file) if file.name == "run.json" else _recorded(file), True
    try:
        with file.open("rb") as stream:
            text = stream.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise SettingsError(f"--config {file}: larger than any configuration")
        content = _toml(text) if suffix == ".toml" else _yaml(text)
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"--config {file} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(content, dict):
        raise SettingsError(f"--config {file}: expected option: value, one a line")
    return content, False


def _toml(text: bytes) -> Any:
    import tomllib

    return tomllib.loads(text.decode())


def _yaml(text: bytes) -> Any:
    """YAML without its types of objects, and without keys that stand twice."""
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        keys = [key.value for key, _ in root.value] if isinstance(root, yaml.MappingNode) else []
        twice = next((key for index, key in enumerate(keys) if key in keys[:index]), None)
        if twice is not None:
            raise ValueError(f"the key {twice!r} stands there twice")
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error).replace("\n", " ")) from None


def _value(file: Path, key: str, value: Any) -> Any:
    """A value as the command line would have it: texts, numbers, switches, lists, and tables of settings as NAME=VALUE."""
    match value:
        case bool() | int() | float() | str():
            return value
        case list() if all(isinstance(item, str | int | float) for item in value):
            return [str(item) for item in value] if key in ("set", "settings", "method", "methods") else ",".join(map(str, value))
        case dict() if key == "set":
            return [f"{name}={_word(file, key, one)}" for name, one in _flat(value)]
        case _:
            raise SettingsError(f"{file}: {key} is neither a text, a number, a switch nor a list of them")


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
        raise SettingsError(f"{file}: {key} holds a setting that is neither a text, a number nor a switch")
    return str(value)


def _asked(file: Path) -> dict[str, Any]:
    """The options with which a run was begun, apart from where it is and how its result is printed."""
    from subcircuit.runs import read_run, run_sources

    run = read_run(file.parent)
    asked = {name: value for name, value in run["asked"].items() if name not in ("out", "json")}
    return asked | _in_place(asked, run_sources(file.parent, asked, run["found"]))


def _in_place(options: dict[str, Any], places: "Mapping[str, str | None]") -> dict[str, str]:
    """Names as the paths that they stand for; what is not here as a path too, so that nothing else of that name is taken."""
    return {name: f"./{options[name]}" if place is None else place for name, place in places.items()}


def _prompts(record: "Record") -> dict[str, Any]:
    """How many prompts were asked for, and how they were drawn and divided: the split's own words where there is one."""
    made = None if record.task.split is None else record.task.split.settings
    if made is None:
        return {"seed": record.seed, **{name: record.task.parameters.get(name) for name in ("examples", "bos")}}
    shares = None if made.split is None else "/".join(f"{share:g}" for share in made.split)
    return {"seed": made.seed, "examples": made.examples, "bos": made.bos, "split": shares}


def _recorded(file: Path) -> dict[str, Any]:
    """The options with which a circuit was found."""
    from subcircuit.graph import Circuit
    from subcircuit.runs import run_sources

    circuit = Circuit.load(file)
    record = circuit.record
    if record is None:
        raise SettingsError(f"--config {file}: the circuit does not say how it was found")
    method = dict(record.method.parameters)
    chosen = {name: method.pop(name, None) for name in ("select", "n", "least", "by")}
    selection: dict[str, Any] = {"by": chosen["by"]} if chosen["select"] else {}
    match chosen["select"]:
        case "threshold":
            selection |= {"threshold": chosen["least"]}
        case "top-n" | "greedy":
            selection |= {"edges": str(chosen["n"]), "greedy": chosen["select"] == "greedy"}
    revision = record.model.revision
    options = {
        "model": record.model.name,
        "revision": None if revision is None or revision.startswith("sha256:") else revision,
        "dtype": record.model.dtype,
        "task": record.task.parameters.get("file", record.task.name),
        **_prompts(record),
        "metric": record.metric,
        "ablation": record.ablation,
        "scope": str(circuit.graph.scope),
        "method": record.method.name,
        "set": method,
        **selection,
    }
    digests = {"model_files": revision, "prompt_file": record.task.parameters.get("sha256")}
    return options | _in_place(options, run_sources(file, options, digests))
