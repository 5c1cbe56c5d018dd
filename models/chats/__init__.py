"""Chats: messages, and the text that a tokenizer's template makes of them."""
