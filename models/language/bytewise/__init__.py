"""Language models over bytes, made of language models over tokens."""

from feynkac.models.language.bytewise.model import ByteModel, bytewise

__all__ = ["ByteModel", "bytewise"]
