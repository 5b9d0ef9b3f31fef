"""From rows to conversations: formats, messages, tool calls."""
