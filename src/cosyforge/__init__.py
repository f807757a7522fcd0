"""CosyForge: fine-tune, deploy and speak with CosyVoice 3 voices on your own machines."""

__version__ = "0.1.0"
