"""The function: what `HOLDFAST_AGENTS` names, over the store that the environment names. `function.handler` is its handler."""

import logging

from holdfast.runtime import Runtime
from holdfast.server import create_app
from holdfast.server.aws import Lambda

logging.getLogger("holdfast").setLevel(logging.INFO)  # the audit log among it; Lambda sends it to CloudWatch

handler = Lambda(create_app(Runtime.get()))
