"""What the repository promises to those who install it: a lock that can be trusted, and a wheel that is whole."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml  # type: ignore[import-untyped]  # it ships no types

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PACKAGES = ("minirag_pipelines", "minirag_serving")


def script(path: str) -> ModuleType:
    """A script of the repository as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def locked() -> dict[str, str]:
    """Each entry of the lock, by the name of its package."""
    entries = re.findall(r"^(?=\S)(?:.*\\\n)*.*$", LOCK, flags=re.MULTILINE)
    return {re.split(r"==", entry)[0]: entry for entry in entries if entry}


def normalized(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement)[0]).lower()


def test_every_package_of_the_lock_has_one_version_and_hashes() -> None:
    for name, entry in locked().items():
        assert re.match(r"[a-z0-9-]+==[^\s\\]+( ; [^\\]+)? \\\n", entry), f"{name} is not pinned"
        assert "--hash=sha256:" in entry, f"{name} has no hash"


def test_the_lock_names_no_address_and_no_option_of_an_index() -> None:
    assert "://" not in LOCK
    assert not re.search(r"^\s*(-i|-f|--(?!hash=))", LOCK, flags=re.MULTILINE)


def test_the_lock_holds_every_direct_dependency() -> None:
    project = PROJECT["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values(), PROJECT["dependency-groups"]["dev"]]
    direct = {normalized(requirement) for group in groups for requirement in group}
    assert direct <= locked().keys()


def test_nothing_drags_in_pytorch_or_cuda() -> None:
    assert not [name for name in locked() if re.match(r"torch|nvidia|triton|cuda|tensorflow", name)]


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_imports_nothing(package: str) -> None:
    for path in (ROOT / package).rglob("__init__.py"):
        if path == ROOT / "minirag_serving" / "__init__.py":  # the Python surface
            continue
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert len(body) == 1, path
        assert isinstance(body[0], ast.Expr), path
        assert isinstance(body[0].value, ast.Constant), path


def test_a_wheel_holds_both_packages_and_the_files_that_are_not_code(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert script(".ci/check_wheel.py").problems(wheel) == []


def test_the_image_of_chroma_is_the_version_that_is_locked() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    version = services["chroma"]["image"].split(":")[1]
    assert locked()["chromadb"].startswith(f"chromadb=={version} ")


def test_the_installer_takes_its_own_lines_from_the_lock() -> None:
    assert script("tools/environment.py").locked("uv").strip() == locked()["uv"]


def test_what_pip_is_configured_with_is_said_to_uv(tmp_path: Path) -> None:
    environment = script("tools/environment.py")
    there = (tmp_path / "simple").as_uri()
    (tmp_path / "simple").mkdir()
    listed = f"""
:env:.index-url='https://mirror.example/simple'
global.cert='/etc/certificates.pem'
global.extra-index-url='{there}\\n{tmp_path.as_uri()}/absent'
global.index-url='https://older.example/simple'
install.default-timeout='60'
"""
    assert environment.for_uv(environment.pip_settings(listed)) == {
        "UV_DEFAULT_INDEX": "https://mirror.example/simple",
        "UV_EXTRA_INDEX_URL": there,
        "UV_HTTP_TIMEOUT": "60",
        "SSL_CERT_FILE": "/etc/certificates.pem",
    }
    assert environment.for_uv(environment.pip_settings("")) == {}
