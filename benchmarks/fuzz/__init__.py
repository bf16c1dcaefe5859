"""Configurations drawn at random: each trains, or is refused in one sentence; anything else is a mistake of ours."""
