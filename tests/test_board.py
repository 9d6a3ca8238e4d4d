"""Addresses of boards: what is taken, and that nothing else reaches ssh or a shell."""

from __future__ import annotations

import shlex
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.device import Board, board_of, scripts
from edgekd.device.refusals import legible, python_lacking, refused
from edgekd.errors import EdgekdError, UsageError


@pytest.mark.parametrize(
    ("url", "board", "name"),
    [
        ("ssh://pi", Board("pi"), "pi"),
        ("ssh://pi/", Board("pi"), "pi"),
        ("ssh://root@10.0.0.7:2222/mnt/ssd/", Board("10.0.0.7", "root", 2222, "/mnt/ssd"), "root@10.0.0.7:2222"),
        ("ssh://u@[fe80::1%eth0]:22", Board("fe80::1%eth0", "u", 22), "u@[fe80::1%eth0]:22"),
        ("ssh://h/a%20b%27%24(id)%3B".replace("(", "%28").replace(")", "%29"), Board("h", folder="/a b'$(id);"), "h"),
        ("ssh://h/%C3%BC@x:y", Board("h", folder="/ü@x:y"), "h"),
    ],
)
def test_addresses(url: str, board: Board, name: str) -> None:
    assert board_of(url) == board and board.name == name
    assert "/" not in board.file_name and ":" not in board.file_name


@pytest.mark.parametrize(
    "url",
    [
        "", "pi", "http://pi", "ssh://", "ssh:///tmp", "SSH://pi", "ssh://-oProxyCommand=id", "ssh://-oProxyCommand=id/x",
        "ssh://-u@pi", "ssh://a b@pi", "ssh://pi;id", "ssh://pi$(id)", "ssh://pi\n", "ssh://p\ni", "ssh://pi:0x16",
        "ssh://pi:99999", "ssh://pi:-1", "ssh://u:secret@pi", "ssh://[pi]", "ssh://[::1", "ssh://::1", "ssh://[::1%e;d]",
        "ssh://pi/a b", "ssh://pi/$(id)", "ssh://pi/`id`", "ssh://pi/a%0Ab", "ssh://pi/a%00b", "ssh://pi/%ff", "ssh://pi/%",
        "ssh://pi/a\nb", "ssh://pi?x", "ssh://pi#x", "ssh://pi/" + "x" * 600, "ssh://%70i", "ssh://u@@pi",
    ],
)  # fmt: skip
def test_refused_addresses(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        board_of(url)
    assert caught.value.exit_code == 2 and caught.value.code.startswith("E024")


PIECES = st.sampled_from(
    ["ssh://", "@", ":", "/", "-o", "ProxyCommand=id", "pi", "$(id)", "`id`", ";", "|", "&", "\n", "\0", "'", '"', "\\",
     "%0a", "%24", "%", "[", "]", "::1", " ", "22", "..", "~", "*", "é", "\u2028", "\x1b[31m"]
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=10).map("".join)), st.booleans())
def test_no_address_carries_an_option_or_a_second_word(text: str, prefixed: bool) -> None:
    try:
        board = board_of(f"ssh://{text}" if prefixed else text)
    except UsageError:
        return
    for word in (board.host, board.user):
        assert not word.startswith("-") and shlex.split(word) == ([word] if word else [])
        assert not set(word) & set(" \t\n;|&$`'\"\\<>(){}*?!#~=/@\0\x1b")
    assert board.folder.startswith("/") and board.folder.isprintable() and 0 <= board.port < 65536
    assert board_of(url_of(board)) == board
    quoted = shlex.quote(board.folder)
    for script in (scripts.make(board.folder), scripts.clear(board.folder), scripts.look(board.folder, 0)):
        assert quoted in script and (quoted == board.folder or board.folder not in script.replace(quoted, ""))


def url_of(board: Board) -> str:
    host = f"[{board.host}]" if ":" in board.host else board.host
    user, port = f"{board.user}@" if board.user else "", f":{board.port}" if board.port else ""
    return f"ssh://{user}{host}{port}{quote(board.folder)}"


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_board_made_by_hand_is_checked_alike(text: str) -> None:
    for host, user, folder in ((text, "", "/tmp"), ("pi", text, "/tmp"), ("pi", "", text)):
        try:
            board = Board(host, user, folder=folder)
        except UsageError:
            continue
        assert all(not str(v).startswith("-") and str(v).isprintable() for v in vars(board).values())


@pytest.mark.parametrize(
    ("said", "code", "fix"),
    [
        ("ssh: connect to host pi port 22: No route to host", "E0510", "ssh -p 2222 u@pi true"),
        ("u@pi: Permission denied (publickey,password).", "E0511", "ssh-copy-id -p 2222 u@pi"),
        ("Host key verification failed.", "E0512", "fingerprint"),
        ("@ REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.", "E0513", "ssh-keygen -R"),
    ],
)  # fmt: skip
def test_words_of_ssh_become_errors(said: str, code: str, fix: str) -> None:
    error = refused(Board("pi", "u", 2222), f"Welcome\n{said}\n", None)
    assert (error.code, error.exit_code) == (code, 5) and fix in error.fix


@pytest.mark.parametrize(
    ("found", "code", "words"),
    [
        ("", "E0520", "--python"),
        ("2 7", "E0521", "--python"),
        ("3 5", "E0521", "--python"),
        ("3 6 numpy onnxruntime", "E0522", "pip install numpy onnxruntime"),
        ("3 13 onnxruntime", "E0522", "pip install onnxruntime"),
    ],
)
def test_what_a_board_lacks(found: str, code: str, words: str) -> None:
    error: EdgekdError | None = python_lacking(Board("pi"), "python3", found, Path("c"))
    assert error is not None and (error.code, error.exit_code) == (code, 4) and words in error.fix
    assert python_lacking(Board("pi"), "python3", "3 6", None) is None


def test_what_a_board_prints_cannot_drive_the_terminal() -> None:
    assert legible("\x1b]0;title\x07 a\tb\n") == "?]0;title? a?b"
