"""Requests and responses of the API, as its OpenAPI document describes them."""

from ._generated.models import *  # noqa: F403
from ._generated.models import __all__ as __all__
