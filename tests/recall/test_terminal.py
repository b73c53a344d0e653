"""`holdfast search`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from holdfast import assistant, user
from holdfast.cli.app import app
from holdfast.sync import Store


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/chat.db"
    with Store.open(url) as store:
        ada, bob = store.session("ada-1", user_id="ada"), store.session("bob-1", user_id="bob")
        ada.append(user("I am allergic to \x1b[31m peanuts [/red]."), assistant("Noted."))
        bob.append(user("My order is A-1007."))
    return url


def search(*words: str) -> Result:
    return CliRunner().invoke(app, ["search", *words], env={"COLUMNS": "100", "HOLDFAST_STORE": None})


def found(*words: str) -> list[str]:
    result = search(*words, "--json")
    assert result.exit_code == 0, result.output
    return [f"{it['session_id']}:{it['seq']}" for it in json.loads(result.stdout)["hits"]]


def test_by_words_without_any_file(url: str, tmp_path: Path) -> None:
    shown = search("peanuts", "-s", url)
    assert shown.exit_code == 0
    assert [word in shown.stdout for word in ("ada-1", "allergic", "\x1b[31m")] == [True, True, False]
    assert found("peanut a-1007", "-s", url) in (["ada-1:1", "bob-1:1"], ["bob-1:1", "ada-1:1"])
    assert found("peanut a-1007", "-s", url, "--user", "bob") == ["bob-1:1"]
    assert found("peanut", "-s", url, "--session", "bob-1") == []
    assert "nothing found" in search("xylophone", "-s", url).stderr
    assert [it.name for it in tmp_path.iterdir() if "recall" in it.name] == []


def test_by_meaning_with_an_index_that_is_kept(url: str, tmp_path: Path) -> None:
    kept = ("-s", url, "--index", f"sqlite:///{tmp_path}/recall.db")
    assert found("which foods are dangerous for her?", *kept, "--limit", "1") == ["ada-1:1"]
    with Store.open(url) as store:
        store.session("ada-2", user_id="ada").append(user("a xylophone"))
    assert found("xylophone", *kept, "--words", "--no-update") == []
    refused = search("xylophone", *kept, "--words")
    assert refused.exit_code == 2
    assert "--rebuild" in refused.stderr
    assert found("xylophone", *kept, "--words", "--rebuild") == ["ada-2:1"]
    assert found("xylophone", "-s", url, *kept, "--rebuild", "--limit", "1") == ["ada-2:1"]
    assert search("x", "-s", url, "--rebuild").exit_code == 2
