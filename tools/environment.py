"""Makes .venv from requirements.lock: `make` runs it with any Python from 3.11 to 3.13, and only its standard library.

uv installs, because it is several times faster than pip; pip alone does the same where uv can't work. Every file is
checked against the lock's hashes either way. Index, certificates and proxies are those that pip is configured with.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
FOLDER = ROOT / ".venv"
STAMP = FOLDER / "installed"
BIN = FOLDER / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
# Hashes decide what is installed, so it may come from whichever index has it, as with pip.
UV_ALWAYS = {"UV_INDEX_STRATEGY": "unsafe-best-match", "UV_NO_CONFIG": "1", "UV_PYTHON_DOWNLOADS": "never"}


def main() -> int:
    """Bring .venv up to the lock. Returns the exit code."""
    if sys.argv[1:2] == ["uv"]:
        return subprocess.call([BIN / "uv", *sys.argv[2:]], env=uv_environment(), cwd=ROOT)
    STAMP.unlink(missing_ok=True)
    print(f"Installing MiniRAG's dependencies into {FOLDER.name} (Python {sys.version.split()[0]}) …", flush=True)
    try:
        make_folder()
        install()
    except subprocess.CalledProcessError as error:
        print(f"make: {' '.join(str(part) for part in error.cmd[:5])} … failed; see above.", file=sys.stderr)
        return 1
    STAMP.touch()
    return 0


def make_folder() -> None:
    """A virtual environment of this Python; one of another version is made anew."""
    if shown_version() == sys.version_info[:2]:
        return
    try:
        venv.create(FOLDER, clear=True, with_pip=True)
    except subprocess.CalledProcessError:
        print("This Python can't make virtual environments. On Debian: apt install python3-venv", file=sys.stderr)
        raise


def shown_version() -> tuple[int, int] | None:
    """The version of Python in .venv, None where there is none that works with its pip."""
    question = "import sys, pip; print(*sys.version_info[:2])"
    try:
        told = subprocess.run([PYTHON, "-c", question], capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return None
    return int(told[0]), int(told[1])


def install() -> None:
    """Install what the lock names and nothing else, then MiniRAG itself, editable."""
    project = ["--no-deps", "--no-build-isolation", "--editable", "."]
    try:
        with tempfile.TemporaryDirectory() as folder:
            only_uv = Path(folder) / "uv.txt"
            only_uv.write_text(locked("uv"))
            pip("install", "--require-hashes", "--no-deps", "--requirement", str(only_uv))
        uv("pip", "sync", "--require-hashes", "--compile-bytecode", LOCK.name)
        uv("pip", "install", *project)
    except (OSError, subprocess.CalledProcessError):
        print("uv could not do it; pip does the same, which takes longer.", flush=True)
        # --no-deps: the lock is complete, and pip takes a dependency on `name[extra]` for one without a hash.
        pip("install", "--require-hashes", "--no-deps", "--requirement", LOCK.name)
        pip("install", *project)
        subprocess.run([PYTHON, "-m", "compileall", "-qq", "-j", "0", str(FOLDER)], check=False)


def locked(name: str) -> str:
    """The lines of the lock that are about one package."""
    found = re.search(rf"^{name}==.*(?:\n +--hash.*)*", LOCK.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if found is None:
        raise OSError(f"{LOCK.name} does not name {name}")
    return found[0] + "\n"


def pip(*arguments: str) -> None:
    """Run the environment's pip, which speaks of nothing but errors. Raises CalledProcessError."""
    subprocess.run([PYTHON, "-m", "pip", "-qq", *arguments], check=True, cwd=ROOT, env=own_environment())


def uv(*arguments: str) -> None:
    """Run the environment's uv, which shows its progress on a terminal only. Raises CalledProcessError."""
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    subprocess.run([BIN / "uv", *quiet, *arguments], check=True, cwd=ROOT, env=uv_environment())


def own_environment() -> dict[str, str]:
    """Ours, with bytecode: without it every command takes twice as long to start."""
    given = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return given | {"VIRTUAL_ENV": str(FOLDER), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def uv_environment() -> dict[str, str]:
    """Ours, with what pip is configured with said in uv's words. What is set for uv already stays."""
    listed = subprocess.run([PYTHON, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    return {**UV_ALWAYS, **for_uv(pip_settings(listed.stdout)), **own_environment()}


def pip_settings(listed: str) -> dict[str, str]:
    """What `pip config list` says counts for `pip install`: the environment over [install] over [global]."""
    found: dict[str, str] = {}
    for section in ("global", "install", ":env:"):
        for line in listed.splitlines():
            name, _, value = line.partition("=")
            if name.startswith(f"{section}.") and value:
                found[name.removeprefix(f"{section}.").replace("_", "-")] = ast.literal_eval(value)
    return found


def for_uv(settings: Mapping[str, str]) -> dict[str, str]:
    """pip's settings as variables of uv."""
    places = {
        "UV_DEFAULT_INDEX": " ".join(reachable(settings.get("index-url", ""))[:1]),
        "UV_EXTRA_INDEX_URL": " ".join(reachable(settings.get("extra-index-url", ""))),
        "UV_FIND_LINKS": ",".join(reachable(settings.get("find-links", ""))),
        "UV_INSECURE_HOST": " ".join(settings.get("trusted-host", "").split()),
        "UV_NO_INDEX": "1" if settings.get("no-index", "").lower() in ("1", "true", "yes", "on") else "",
        "UV_HTTP_TIMEOUT": settings.get("default-timeout", settings.get("timeout", "")),
        "SSL_CERT_FILE": settings.get("cert", ""),
        "HTTPS_PROXY": settings.get("proxy", ""),
        "HTTP_PROXY": settings.get("proxy", ""),
    }
    return {name: value for name, value in places.items() if value}


def reachable(places: str) -> list[str]:
    """The places but for those on this machine that are not there: pip passes over them, uv stops."""
    found = []
    for place in places.split():
        parts = urlsplit(place)
        path = Path(unquote(parts.path) if parts.scheme == "file" else place)
        if parts.scheme in ("http", "https") or path.exists():
            found.append(place)
    return found


if __name__ == "__main__":
    sys.exit(main())
