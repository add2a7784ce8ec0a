import math

from tl_neuron_attr.results.hardly_predicted import hardly_predicted


def test_it_speaks_below_a_thousandth():
    assert hardly_predicted(math.log(0.0009)).startswith("the model hardly predicts this target")
    assert hardly_predicted(math.log(0.0011)) == hardly_predicted(0.0) == ""


def test_an_answer_is_judged_by_the_mean_of_its_tokens():
    assert hardly_predicted(5 * math.log(0.0011), tokens=5) == ""
    assert hardly_predicted(5 * math.log(0.0009), tokens=5)
