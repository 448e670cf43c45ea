"""Other datasets that train along with a target: which, prepared for it, recorded. No torch.

`tasks` names them, `channels` matches their channels, `preprocessing` brings them onto the target's plans. `turns` is
what a scheduler chose and why, `record` keeps it, `section` and `plots` show it.
"""
