"""The rules of the house: types, errors, head algebra, split, judge, lifecycle, messages. No I/O."""
