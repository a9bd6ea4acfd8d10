"""`campaign init --compose`: the secrets that `docker/compose.yaml` hands to its services, each in a file."""

from __future__ import annotations

import secrets
from pathlib import Path

from ml_backend.errors import InputError
from ml_backend.files import write_whole

SECRETS, ENVIRONMENT = "secrets", ".env"
# Made up once; what follows from them is in `_derived`.
_MADE = ("postgres_password", "redis_password", "label_studio_database_password", "label_studio_password")


def write_deployment(folder: Path) -> list[str]:
    """Writes what is not there yet of a deployment's secrets below `folder`, and its `.env`; returns the new files.

    The folder of secrets is for its owner alone. The files in it may be read, for the users inside the containers are
    others; who cannot enter the folder cannot reach them. Raises InputError where they cannot be written.
    """
    inner = folder.resolve() / SECRETS
    try:
        inner.mkdir(parents=True, exist_ok=True)
        inner.chmod(0o700)
    except OSError as error:
        raise InputError(inner, "a folder that can be made", error.strerror or str(error)) from None
    new = [name for name in _MADE if _write(inner / name, secrets.token_urlsafe(24))]
    # As Label Studio's own tokens are.
    new += ["label_studio_token"] if _write(inner / "label_studio_token", secrets.token_hex(20)) else []
    known = {name: (inner / name).read_text().strip() for name in _MADE}
    new += [name for name, text in _derived(known).items() if _write(inner / name, text)]
    new += [ENVIRONMENT] if _write(folder.resolve() / ENVIRONMENT, f"CAMPAIGN_SECRETS_FOLDER={inner}\n", 0o600) else []
    return new


def _derived(known: dict[str, str]) -> dict[str, str]:
    return {
        "database_url": f"postgresql+psycopg://campaign:{known['postgres_password']}@postgres:5432/campaign",
        "redis_url": f"redis://:{known['redis_password']}@redis:6379/0",
        # Redis takes a password from a file of settings, where no list of processes shows it.
        "redis_conf": f"requirepass {known['redis_password']}\n",
    }


def _write(path: Path, text: str, mode: int = 0o444) -> bool:
    """Writes a file unless it is there already; whether it was new."""
    if path.exists():
        return False

    def write(partial: Path) -> None:
        partial.touch(mode=0o600)
        partial.write_text(text)
        partial.chmod(mode)

    write_whole(path, write)
    return True
