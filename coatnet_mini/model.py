"""The former name of `coatnet_mini.models`, which chapters import."""

from coatnet_mini.models import create_model, list_models  # noqa: F401
