"""The model and its parts. Nothing in here knows of data, training or serving."""

from multimodal_ai.models.multimodal_model import ModelConfig, ModelInputs, ModelOutput, MultimodalModel

__all__ = ["ModelConfig", "ModelInputs", "ModelOutput", "MultimodalModel"]
