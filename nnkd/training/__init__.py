"""nnU-Net's training of a recipe.

`recipe_trainer` and `trainer` are what students derive from, `options` what --set gives them. `targets`, `loader` and
`losses` are votes on their way into a step; `one_label` is a binary student; `case_losses` tells samplers. Before a
training, `recipe_flags` makes the plan of it, `checks` refuses early and `trial` tries small networks. `file_safety`,
`divergence` (losses that are no numbers) and `bfloat16` stand under all of it, `guard` around it: files run nothing.
`along` is the pass over auxiliary datasets.
"""
