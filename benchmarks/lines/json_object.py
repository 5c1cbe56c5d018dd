"""JSON under a schema (genlm-control's README)."""

import feynkac as fk

schema = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "minLength": 1, "maxLength": 20},
        "pages": {"type": "integer", "minimum": 1, "maximum": 2000},
        "genre": {"type": "string", "enum": ["fiction", "non-fiction", "mystery"]},
    },
    "required": ["title", "pages", "genre"],
    "additionalProperties": False,
}
lm = fk.CausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct")
prompt = lm.prompt(chat="Make up a book as a JSON object with title, pages and genre.", temperature=0.8, max_tokens=40)
posterior = fk.steer(prompt, fk.json_schema(schema), particles=2).posterior()
