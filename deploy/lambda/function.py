"""The function: what `HOLDFAST_AGENTS` names, over the store that the environment names. `function.handler` is its handler."""

from holdfast.runtime import Runtime
from holdfast.server import create_app
from holdfast.server.aws import Lambda

handler = Lambda(create_app(Runtime.get()))
