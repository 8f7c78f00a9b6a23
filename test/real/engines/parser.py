"""Writes the options that an installed engine's argument parser takes, as JSON, one option a line.

Run it with the python of the engine's environment: parser.py vllm|sglang FILE. Per option: its
flags, what it takes (none, one, optional, many), its type, its default, the values it is limited to,
the bounds that a configuration class puts on it, the group of the help text, and whether it is
deprecated. Defaults that the parser leaves to the start are absent.
"""

import argparse
import contextlib
import enum
import json
import sys


def vllm_parser():
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.version import __version__

    return make_arg_parser(FlexibleArgumentParser(prog="vllm serve")), __version__


def sglang_parser():
    from sglang.srt.server_args import ServerArgs
    from sglang.version import __version__

    parser = argparse.ArgumentParser(prog="sglang serve")
    ServerArgs.add_cli_args(parser)
    return parser, __version__


PARSERS = {"vllm": vllm_parser, "sglang": sglang_parser}


def plain(value):
    """Text of a default or a choice as a person would type it; None stays None."""
    if value is None or value is argparse.SUPPRESS:
        return None
    if isinstance(value, enum.Enum):
        value = value.value if isinstance(value.value, str) else value.name
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple, dict)) and not value:
        return ""
    if isinstance(value, (str, int, float, list, tuple, dict)):
        return str(value)
    return f"an object of {type(value).__name__}"


def takes(action):
    if isinstance(action, argparse.BooleanOptionalAction) or action.nargs == 0:
        return "none"
    return {None: "one", "?": "optional"}.get(action.nargs, "many")


def kind(action):
    return getattr(action.type, "__name__", type(action.type).__name__) if action.type else "str"


def vllm_ranges():
    """Bounds that vLLM's configuration classes check after parsing, by field name."""
    import vllm.config

    found = {}
    for owner in vars(vllm.config).values():
        for name, field in getattr(owner, "__pydantic_fields__", {}).items():
            bounds = {b: getattr(m, b) for m in field.metadata for b in ("ge", "gt", "le", "lt") if getattr(m, b, None) is not None}
            if bounds:
                found[name] = bounds
    return found


RANGES = {"vllm": vllm_ranges, "sglang": dict}


def groups(parser):
    """Title of the help group of each option."""
    return {action: group.title for group in parser._action_groups for action in group._group_actions}


def option(parser, action, ranges, group):
    deprecated = (
        action in getattr(parser, "_deprecated", ())
        or "deprecated" in type(action).__name__.lower()
        or (isinstance(action.help, str) and "deprecated" in action.help.lower()[:40])
    )
    default = plain(action.default)
    # Long spellings first, else in the parser's own order.
    entry = {"flags": sorted(action.option_strings, key=lambda flag: not flag.startswith("--")), "takes": takes(action)}
    if entry["takes"] != "none":
        entry["type"] = kind(action)
    if default is not None:
        entry["default"] = default
    if action.choices:
        entry["choices"] = sorted(plain(c) for c in action.choices if c is not None)
    if action.dest in ranges:
        entry["range"] = ranges[action.dest]
    if group and group != "options":
        entry["group"] = group
    if deprecated:
        entry["deprecated"] = True
    return entry


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in PARSERS:
        sys.exit(__doc__)
    with contextlib.redirect_stdout(sys.stderr):  # importing an engine prints
        parser, version = PARSERS[sys.argv[1]]()
        ranges = RANGES[sys.argv[1]]()
    titles = groups(parser)
    options = [option(parser, a, ranges, titles.get(a)) for a in parser._actions if a.option_strings and "--help" not in a.option_strings]
    options.sort(key=lambda o: o["flags"][0])
    with open(sys.argv[2], "w", encoding="utf-8") as out:
        out.write('{"version": %s, "options": [\n' % json.dumps(version))
        out.write(",\n".join(json.dumps(o, ensure_ascii=False) for o in options))
        out.write("\n]}\n")


if __name__ == "__main__":
    main()
