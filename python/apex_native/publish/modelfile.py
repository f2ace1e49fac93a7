"""An Ollama Modelfile: FROM, TEMPLATE and PARAMETER, by the grammar of its docs/modelfile.md."""

from __future__ import annotations

from apex_native.publish.chat import chat_format, sampling_parameters
from apex_native.publish.files import ModelFiles

__all__ = ["modelfile_text"]

CONTEXT = 8192
"""Ollama's own default is 4096, too short for a document; a model may have been made for less."""


def modelfile_text(model: ModelFiles) -> str:
    """The Modelfile of one file, which lies beside it.

    A template that is known is written as Ollama's Go template; another is left to Ollama, which
    reads the one in the file where its engine can.
    """
    facts = model.facts
    lines = [f"FROM ./{model.paths[0].name}", ""]
    known = chat_format(facts)
    if known is not None:
        lines += [f'TEMPLATE """{known.template}"""', ""]
    trained = facts.metadata.get(f"{facts.architecture}.context_length")
    context = min(CONTEXT, trained) if isinstance(trained, int) else CONTEXT
    parameters: list[tuple[str, object]] = [("num_ctx", context)]
    parameters += sampling_parameters(facts).items()
    lines += [f"PARAMETER {name} {value}" for name, value in parameters]
    for stop in known.stops if known is not None else ():
        lines.append(f'PARAMETER stop "{stop}"')
    return "\n".join(lines) + "\n"
