"""What could be built: domains, base models, presets and settings, read from configs/ and checked."""

from core.catalog.loading import check_catalog, load_catalog, load_settings
from core.catalog.model import (
    EMOTIONS,
    BaseModel,
    Catalog,
    Domain,
    DomainBase,
    Settings,
    TrainingPreset,
)

__all__ = [
    "EMOTIONS",
    "BaseModel",
    "Catalog",
    "Domain",
    "DomainBase",
    "Settings",
    "TrainingPreset",
    "check_catalog",
    "load_catalog",
    "load_settings",
]
