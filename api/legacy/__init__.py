"""Routes of the gateways that came before: one prompt or one text, and defaults for all the rest.

A prompt is what a user says in a chat, so every provider that chats serves them. Errors are
told in the unified form.
"""
