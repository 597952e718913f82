"""What a developer and the workflows type exists: make targets, local actions, commit hooks."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.M))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
YAML = sorted([*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml"])


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_every_configuration_of_the_repository_is_yaml(path: Path) -> None:
    """A workflow that does not parse does not run, and nothing turns red."""
    assert isinstance(yaml.safe_load(path.read_text()), dict)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_step_of_a_workflow_names_what_is_there(path: Path) -> None:
    """A renamed target or action would be noticed only after the push."""
    jobs = yaml.safe_load(path.read_text())["jobs"].values()
    steps = [step for job in jobs for step in job["steps"]]
    made = re.findall(r"\bmake ([a-z-]+)", "\n".join(step.get("run", "") for step in steps))
    assert made
    assert set(made) <= TARGETS
    local = [step["uses"] for step in steps if step.get("uses", "").startswith("./")]
    assert all((ROOT / action / "action.yml").exists() for action in local)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_holds_no_secret_and_may_write_nothing_by_default(path: Path) -> None:
    """Publishing is trusted by the index, so there is no token that could leak."""
    text = path.read_text()
    assert "secrets." not in text
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}


def test_make_help_lists_every_target() -> None:
    """A target without a line of help is known only to its author."""
    explained = set(re.findall(r"^([a-z][a-z-]*):.*## \S", MAKEFILE, re.M))
    assert explained == TARGETS
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.M)
    assert set(phony.split()) == TARGETS


def tool(command: str) -> str:
    """Return the program of *command* with its subcommand, without options and paths."""
    return " ".join(word for word in command.split()[:2] if word[0].isalpha())


def test_commit_hooks_run_the_tools_of_make_check() -> None:
    """A commit that its hooks accept must not fail in CI for its format."""
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = {tool(hook["entry"].removeprefix(".venv/bin/")) for hook in repository["hooks"]}
    (recipe,) = re.findall(r"^check:.*\n((?:\t.*\n)+)", MAKEFILE, re.M)
    assert hooks == {tool(line.removeprefix("\t$(BIN)/")) for line in recipe.splitlines()}
