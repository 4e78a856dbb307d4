"""The public set, from Kaggle."""

import os
from pathlib import Path

from ctkeras.errors import UserError

KAGGLE_SET = "mohamedhanyyy/chest-ctscan-images"


def download() -> Path:
    """Downloads the public set with kagglehub, which caches it.

    Raises:
        UserError: kagglehub or the key is missing, or Kaggle cannot be reached.
    """
    try:
        import kagglehub
    except ImportError as error:
        raise UserError('--data kaggle needs kagglehub: pip install "ctkeras[kaggle]"') from error
    has_key = os.environ.get("KAGGLE_KEY") or os.environ.get("KAGGLE_API_TOKEN")
    places = (Path.home() / ".kaggle/kaggle.json", Path.home() / ".kaggle/access_token")
    if not has_key and not any(place.exists() for place in places):
        raise UserError("--data kaggle needs a Kaggle key: put kaggle.json in ~/.kaggle, or pass a downloaded zip")
    try:
        return Path(kagglehub.dataset_download(KAGGLE_SET))
    except Exception as error:  # kagglehub raises its own errors, and those of requests and urllib3
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"cannot download {KAGGLE_SET} ({reason}); pass a downloaded zip instead") from error
