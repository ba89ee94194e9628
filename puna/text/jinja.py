"""The chat formats as Jinja templates, for outside engines and `apply_chat_template`.

`chat_template(tokenizer)` is what `Tokenizer.save` puts into tokenizer_config.json.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from puna.text import chatml, formats

if TYPE_CHECKING:
    from puna.text.tokenizer import Tokenizer

_TOKENS = (
    *("begin_of_text", "header_start", "header_end", "eot", "image"),
    *("python_start", "python_end", "think_start", "think_end"),
)


def chat_template(tokenizer: Tokenizer) -> str:
    """The tokenizer's format as a template; Meta's piecewise form has none, and gives llama4's.

    Renders text that is tokenised as a whole, so ids equal `render`'s only where no content
    spells a special token or, in Puna's own format, begins with a line break.
    """
    form = tokenizer.format
    values: dict[str, object]
    if form.gap:
        values = {"begin_of_text": "", "image": "", "default_system": form.system}
        values |= {"thinks": form.thinks, "list_head": chatml.LIST, "how": chatml.HOW}
        body = _CHATML
    elif form.moves:
        names = ("begin_of_text", "eot")
        values = {n: tokenizer.token(n) or "" for n in names}
        values |= {"image": "", "space": form.space}
        body = _MISTRAL
    else:
        values = {n: tokenizer.token(n) or "" for n in _TOKENS}
        values |= {"tools_head": formats.TOOLS, "functions": formats.FUNCTIONS}
        values |= {"old": form.name == "llama3.1", "date": form.date}
        body = _SHARED + (_PUNA if form.name == "puna" else _LLAMA)
    lines = [f"{{%- set {n} = {json.dumps(v, ensure_ascii=False)} %}}" for n, v in values.items()]
    return "".join(lines) + _BODY + body


def own(template: str) -> bool:
    """Whether `chat_template` wrote it."""
    return template.startswith("{%- set begin_of_text = ")


_BODY = r"""
{%- macro body(content) -%}
  {%- if content is string %}{{ content }}
  {%- elif content %}
    {%- for part in content %}{{ part.text if part.type == 'text' else image }}{% endfor %}
  {%- endif -%}
{%- endmacro -%}
{{- begin_of_text }}
"""

_SHARED = r"""
{%- macro opened(role) -%}
  {{- header_start + ('ipython' if role == 'tool' else role) + header_end + '\n\n' }}
{%- endmacro -%}
{%- macro thought(m) -%}
  {%- if m.reasoning_content %}{{ think_start + m.reasoning_content + think_end }}{% endif %}
{%- endmacro -%}
{%- macro called(f) -%}
  {%- set arguments = f.arguments if f.arguments is string else f.arguments | tojson %}
  {{- '{"name": ' + (f.name | tojson) + ', "parameters": ' + arguments + '}' }}
{%- endmacro -%}
"""

_PUNA = r"""
{%- macro toolbox() -%}
  {{- tools_head }}
  {%- for tool in tools %}{{ '\n' + ((tool.function if tool.function else tool) | tojson) }}
  {%- endfor -%}
{%- endmacro -%}
{%- if tools and messages[0].role != 'system' %}
  {{- opened('system') + toolbox() + eot }}
{%- endif %}
{%- for m in messages %}
  {{- opened(m.role) + thought(m) + body(m.content) }}
  {%- if tools and loop.first and m.role == 'system' %}
    {{- ('\n\n' if m.content else '') + toolbox() }}
  {%- endif %}
  {%- for call in m.tool_calls or [] %}
    {{- python_start + called(call.function) + python_end }}
  {%- endfor %}
  {{- eot }}
{%- endfor %}
{%- if add_generation_prompt %}{{ opened('assistant') }}{% endif %}
"""

_LLAMA = r"""
{%- set system, rest = none, messages %}
{%- if messages and messages[0].role == 'system' %}
  {%- set system, rest = body(messages[0].content) | trim, messages[1:] %}
{%- endif %}
{%- if old or system is not none %}
  {{- opened('system') + ('Environment: ipython\n' if tools else '') }}
  {%- if old %}
    {{- 'Cutting Knowledge Date: December 2023\nToday Date: ' + (date_string or date) + '\n\n' }}
  {%- endif %}
  {{- (system or '') + eot }}
{%- endif %}
{%- if tools %}
  {{- opened('user') + functions }}
  {%- for tool in tools %}{{ (tool | tojson(indent=4)) + '\n\n' }}{% endfor %}
  {%- if rest and rest[0].role == 'user' %}
    {{- body(rest[0].content) | trim }}
    {%- set rest = rest[1:] %}
  {%- endif %}
  {{- eot }}
{%- endif %}
{%- for m in rest %}
  {{- opened(m.role) + thought(m) }}
  {%- if m.tool_calls %}
    {{- '' if old else python_start + body(m.content) + python_end }}
    {%- for call in m.tool_calls %}
      {{- called(call.function) + ('; ' if old and not loop.last else '') }}
    {%- endfor %}
  {%- elif m.role == 'tool' %}{{ body(m.content) | tojson }}
  {%- else %}{{ body(m.content) | trim if old else body(m.content) }}
  {%- endif %}
  {{- eot }}
{%- endfor %}
{%- if add_generation_prompt %}{{ opened('assistant') }}{% endif %}
"""

_CHATML = r"""
{%- set named = messages and messages[0].role == 'system' %}
{%- set told = body(messages[0].content) if named else default_system %}
{%- set rest = messages[1:] if named else messages %}
{%- if tools %}
  {{- '<|im_start|>system\n' + (told + '\n\n' if named or told else '') + list_head }}
  {%- for tool in tools %}{{ '\n' + (tool | tojson) }}{% endfor %}
  {{- how + '<|im_end|>\n' }}
{%- elif named or told %}{{ '<|im_start|>system\n' + told + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(asked=rest | length - 1) %}
{%- for m in rest %}{% if m.role == 'user' %}{% set ns.asked = loop.index0 %}{% endif %}{% endfor %}
{%- for m in rest %}
  {%- if m.role == 'tool' %}
    {{- '<|im_start|>user' if loop.first or loop.previtem.role != 'tool' else '' }}
    {{- '\n<tool_response>\n' + body(m.content) + '\n</tool_response>' }}
    {{- '<|im_end|>\n' if loop.last or loop.nextitem.role != 'tool' else '' }}
  {%- elif m.role == 'assistant' %}
    {%- set content = body(m.content) %}
    {%- set thought = (m.reasoning_content or '').strip('\n') %}
    {{- '<|im_start|>assistant\n' }}
    {%- if thought and not thinks or thinks and loop.index0 > ns.asked and (loop.last or thought) %}
      {{- '<think>\n' + thought + '\n</think>\n\n' + content.lstrip('\n') }}
    {%- else %}{{ content }}
    {%- endif %}
    {%- for call in m.tool_calls or [] %}
      {%- set f = call.function %}
      {{- ('\n' if content or not loop.first else '') + '<tool_call>\n{"name": "' + f.name }}
      {{- '", "arguments": ' + (f.arguments if f.arguments is string else f.arguments | tojson) }}
      {{- '}\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\n' }}
  {%- else %}{{ '<|im_start|>' + m.role + '\n' + body(m.content) + '<|im_end|>\n' }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- '<|im_start|>assistant\n' + ('<think>\n\n</think>\n\n' if thinks else '') }}
{%- endif %}
"""

_MISTRAL = r"""
{%- set named = messages and messages[0].role == 'system' %}
{%- set told = body(messages[0].content) if named else '' %}
{%- set rest = messages[1:] if named else messages %}
{%- set ns = namespace(asked=-1) %}
{%- for m in rest %}{% if m.role == 'user' %}{% set ns.asked = loop.index0 %}{% endif %}{% endfor %}
{%- macro nine(id) -%}
  {{- id if id | length == 9 else '%s%05d' | format('call', id[5:] | int) }}
{%- endmacro -%}
{%- macro listed() -%}
  {%- for tool in tools or [] %}
    {{- '[AVAILABLE_TOOLS]' + space + '[' if loop.first else ', ' }}
    {{- '{"type": "function", "function": {' }}
    {%- for key, value in (tool.function or tool).items() if key != 'return' %}
      {{- '"' + key + '": ' + ('"' + value + '"' if value is string else value | tojson) }}
      {{- '' if loop.last else ', ' }}
    {%- endfor %}
    {{- '}}' + ('][/AVAILABLE_TOOLS]' if loop.last else '') }}
  {%- endfor %}
{%- endmacro -%}
{%- if ns.asked < 0 and (named or tools) %}{{ listed() + '[INST]' + space + told + '[/INST]' }}
{%- endif %}
{%- for m in rest %}
  {%- if m.role == 'tool' %}
    {{- '[TOOL_RESULTS]' + space + '{"content": ' + body(m.content) }}
    {{- ', "call_id": "' + nine(m.tool_call_id) + '"}[/TOOL_RESULTS]' }}
  {%- elif m.role == 'assistant' and m.tool_calls %}
    {%- for call in m.tool_calls %}
      {%- set f = call.function %}
      {{- '[TOOL_CALLS]' + space + '[' if loop.first else ', ' }}
      {{- '{"name": ' + (f.name | tojson) + ', "arguments": ' }}
      {{- f.arguments if f.arguments is string else f.arguments | tojson }}
      {{- ', "id": "' + nine(call.id) + '"}' + (']' + eot if loop.last else '') }}
    {%- endfor %}
  {%- elif m.role == 'assistant' %}
    {{- space + (body(m.content) | trim if space else body(m.content)) + eot }}
  {%- elif loop.index0 == ns.asked %}
    {{- listed() + '[INST]' + space + (told + '\n\n' if named else '') }}
    {{- body(m.content) + '[/INST]' }}
  {%- else %}{{ '[INST]' + space + body(m.content) + '[/INST]' }}
  {%- endif %}
{%- endfor %}
"""
