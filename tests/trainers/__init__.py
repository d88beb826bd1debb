"""Real trainers beside a real daemon: what each library writes, keeps and deletes, and what we make of it."""
