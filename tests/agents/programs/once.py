"""An agent for one turn, by the openai client: `python once.py "2+2="` prints what is said."""

import sys

import openai

answer = openai.OpenAI().chat.completions.create(
    model="any", messages=[{"role": "user", "content": sys.argv[1]}], temperature=0.2
)
print(answer.choices[0].message.content)
