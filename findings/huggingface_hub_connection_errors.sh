#!/usr/bin/env bash
# expected: a Hub that cannot be reached raises something of huggingface_hub.errors, or an OSError
# happens: 0.36.0 raises an OSError (requests.ConnectionError), 2.4.0 neither: httpx2.ConnectError
# matters: `except (HfHubHTTPError, OSError)`, right for years, lets a broken line through as a traceback
set -euo pipefail
cd "$(mktemp -d)"
python3 -m venv old
python3 -m venv new
old/bin/pip install --quiet huggingface_hub==0.36.0 requests==2.32.5
new/bin/pip install --quiet huggingface_hub==2.4.0 httpx2==2.16.2
cat > ask.py <<'PY'
import socket

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError

with socket.socket() as nobody:
    nobody.bind(("127.0.0.1", 0))  # a port that is taken and on which nobody listens
    api = huggingface_hub.HfApi(endpoint=f"http://127.0.0.1:{nobody.getsockname()[1]}", token=False)
    try:
        api.repo_info("owner/model")
    except Exception as error:
        kind = f"{type(error).__module__.partition('.')[0]}.{type(error).__name__}"
        print(
            f"huggingface_hub {huggingface_hub.__version__}: {kind};",
            f"HfHubHTTPError: {isinstance(error, HfHubHTTPError)}, OSError: {isinstance(error, OSError)}",
        )
PY
unset HF_HUB_OFFLINE
old=$(old/bin/python ask.py)
new=$(new/bin/python ask.py)
echo "$old"
echo "$new"
[[ $old == *"HfHubHTTPError: False, OSError: True" ]]
[[ $new == *"httpx2.ConnectError; HfHubHTTPError: False, OSError: False" ]]
