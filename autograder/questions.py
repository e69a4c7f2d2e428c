"""Questions that mark themselves, and predictions set beside what was measured. Neither is graded."""

from autograder import record
from autograder.exercise import chapters, load_chapter
from autograder.notebook import Message


def quiz(quiz_id, choice=None):
    """Mark one choice of a quiz question and say why: `quiz("2.a", "b")`."""
    questions = {}
    number = str(quiz_id).split(".")[0]
    if number.isdigit() and int(number) in chapters():
        questions = load_chapter(int(number)).quizzes
    question = questions.get(str(quiz_id))
    if question is None:
        known = ", ".join(questions) or "none here"
        return Message("No such question", f'there is no quiz question "{quiz_id}"; this chapter has {known}')
    letter = str(choice).strip().lower() if choice is not None else ""
    if letter not in question.choices:
        letters = ", ".join(question.choices)
        return Message(f"Question {question.id}", f"put your choice between the quotes ({letters}) and run this cell")
    right = letter == question.right
    record.append("quiz", question.id, choice=letter, right=right)
    verdict = "✓ right" if right else "✗ not this one"
    return Message(
        f"Question {question.id}, {letter}: {verdict}", question.choices[letter][1], "full" if right else "part"
    )


def guess(guessed, measured, unit=""):
    """Set a prediction beside the measurement: `guess(my_guess, measured=2.5, unit="times")`.

    Numbers are compared as a ratio, anything else as it is. Never graded: a wrong guess is where the lesson starts.
    """
    unit = f" {unit}" if unit else ""
    if guessed is None or guessed is ...:
        return Message("No guess yet", "write your guess in the cell above, run it, then run this one again", "part")
    try:
        mine, real = float(guessed), float(measured)
    except (TypeError, ValueError):
        same = str(guessed).strip().lower() == str(measured).strip().lower()
        return Message(
            "As you guessed" if same else "Not as you guessed", f"you: {guessed}{unit}\nmeasured: {measured}{unit}"
        )
    line = f"you: {mine:.4g}{unit}\nmeasured: {real:.4g}{unit}"
    if mine == real:
        line += "\nspot on"
    elif mine * real > 0:
        ratio = max(mine / real, real / mine)
        line += (
            "\nspot on"
            if ratio < 1.05
            else f"\nyour guess is {_times(ratio)} times too {'high' if abs(mine) > abs(real) else 'low'}"
        )
    return Message("Your guess and the measurement", line)


def _times(ratio):
    return f"{ratio:.2g}" if ratio < 100 else f"{ratio:,.0f}"
