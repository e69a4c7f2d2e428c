"""What comes out of grading: feedback for a student, a report for the class, and the files that other systems read."""
