"""Every command of the package: `python -m medxvl.pipeline`, which run_all.sh calls.

Only the standard library is imported here, so that `--help` and a mistyped option answer before
anything is installed.
"""

import importlib
import os
import sys

from medxvl.config import paths
from medxvl.pipeline import command_line

# Commands with options of their own, each in a module with a `main(arguments) -> exit code`.
COMMANDS = {
    "notebook": "steps",  # one notebook, as the Snakefile's rules run it
    "prepare": "preparation",  # the data of one role, likewise
    "pretrain": "pretraining",  # a pre-training without its notebook, also under torchrun
    "settings": "list_settings",  # the table of settings
    "doctor": "doctor",  # what is here and what is missing
    "inspect": "inspect",  # what a weights file is
    "pages": "pages",  # the web pages of a run, anew
}


def main(arguments: list[str]) -> int:
    """Do what the command line says; exit code: 0 done, 1 something failed, 2 wrong option, 130
    stopped.
    """
    if arguments[:1] == ["lab"]:
        return lab(arguments[1:])
    if arguments[:1] == ["test"]:
        return test(arguments[1:])
    if arguments and arguments[0] in COMMANDS:
        module = importlib.import_module(f"medxvl.pipeline.{COMMANDS[arguments[0]]}")
        return module.main(arguments[1:])
    # run_all.sh asks for this before it installs anything
    check_only = arguments[:1] == ["--check-options"]
    words = arguments[check_only:]
    try:
        plans = (
            [command_line.parse_verify(words[1:])]
            if words[:1] == ["verify"]
            else [command_line.parse(each) for each in command_line.by_preset(words)]
        )
    except ValueError as error:
        print(f"error: {error}\n(./run_all.sh --help shows the options)", file=sys.stderr)
        return 2
    if check_only:
        return 0
    from medxvl.pipeline import execute, verify  # they need more than the standard library

    if words[:1] == ["verify"]:
        return verify.run(plans[0])

    codes = []
    for plan in plans:
        if len(plans) > 1:
            print(f"\n--- preset {plan.preset} ---", flush=True)
        codes.append(execute.run(plan))
        if codes[-1] == 130:
            break
    return max(codes)


def lab(arguments: list[str]) -> int:
    """Open JupyterLab in this environment, with the notebooks on show."""
    os.environ["JUPYTER_PREFER_ENV_PATH"] = (
        "1"  # the kernel of this environment, whatever the user has elsewhere
    )
    command = [
        sys.executable,
        "-P",
        "-m",
        "jupyter",
        "lab",
        f"--ServerApp.root_dir={paths.ROOT}",
        *arguments,
    ]
    if not any(
        argument.startswith(("--LabApp.default_url", "--help", "-h")) for argument in arguments
    ):
        command.append("--LabApp.default_url=/lab/tree/notebooks")
    os.execv(sys.executable, command)


def test(arguments: list[str]) -> int:
    """Run the tests."""
    os.chdir(paths.ROOT)
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *arguments])


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BrokenPipeError:
        sys.exit(0)
