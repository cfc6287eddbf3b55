"""What the user asks for: budgets, costs of their own, rules about widths."""
