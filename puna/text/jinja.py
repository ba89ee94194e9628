"""The chat formats as Jinja templates, for outside engines and `apply_chat_template`.

`chat_template(tokenizer)` is what `Tokenizer.save` puts into tokenizer_config.json.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from puna.text import formats

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
    values: dict[str, object] = {n: tokenizer.token(n) or "" for n in _TOKENS}
    values |= {"tools_head": formats.TOOLS, "functions": formats.FUNCTIONS}
    values |= {"old": form.name == "llama3.1", "date": form.date}
    lines = [f"{{%- set {n} = {json.dumps(v, ensure_ascii=False)} %}}" for n, v in values.items()]
    return "".join(lines) + _SHARED + (_PUNA if form.name == "puna" else _LLAMA)


_SHARED = r"""
{%- macro body(content) -%}
  {%- if content is string %}{{ content }}
  {%- elif content %}
    {%- for part in content %}{{ part.text if part.type == 'text' else image }}{% endfor %}
  {%- endif -%}
{%- endmacro -%}
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
{{- begin_of_text }}
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
