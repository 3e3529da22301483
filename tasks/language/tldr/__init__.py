"""Reddit TL;DR."""
