package quality

import (
	"fmt"
	"slices"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/load"
)

// perKind is how many prompts each kind makes.
const perKind = 16

// kinds of built-in prompts: each makes the n-th prompt and what a right answer contains.
var kinds = []struct {
	name string
	make func(n int) (task, expect string)
}{
	{"sum", func(n int) (string, string) {
		a, b := 13+7*n, 28+5*n
		return fmt.Sprintf("What is %d plus %d? Give the number alone.", a, b), fmt.Sprint(a + b)
	}},
	{"product", func(n int) (string, string) {
		a, b := 3+n, 12+n%5
		return fmt.Sprintf("Multiply %d by %d. Give the number alone.", a, b), fmt.Sprint(a * b)
	}},
	{"story", func(n int) (string, string) {
		who, have, get, lose := names[n%len(names)], 20+3*n, 4+n, 2+n/2
		return fmt.Sprintf("%s has %d %s, buys %d more and gives %d away. How many are left? Give the number alone.", who, have, things[n%len(things)], get, lose), fmt.Sprint(have + get - lose)
	}},
	{"compare", func(n int) (string, string) {
		a, b := 100+17*n, 350-14*n
		return fmt.Sprintf("Which number is larger, %d or %d? Give the number alone.", a, b), fmt.Sprint(max(a, b))
	}},
	{"sequence", func(n int) (string, string) {
		from, by := 5+n, 2+n%7
		return fmt.Sprintf("Continue the sequence by one number: %d, %d, %d, %d,", from, from+by, from+2*by, from+3*by), fmt.Sprint(from + 4*by)
	}},
	{"extract", func(n int) (string, string) {
		who, day, city := names[n%len(names)], days[n%len(days)], cities[n%len(cities)]
		return fmt.Sprintf("Read: \"The parcel for %s leaves %s on %s and weighs %d kg.\" Which city does it leave? One word.", who, city, day, 2+n), city
	}},
	{"extract-json", func(n int) (string, string) {
		id := 4100 + 37*n
		return fmt.Sprintf("From {\"order\": %d, \"customer\": \"%s\", \"paid\": %t}, what is the value of \"order\"? Give the number alone.", id, names[(n+3)%len(names)], n%2 == 0), fmt.Sprint(id)
	}},
	{"translate", func(n int) (string, string) {
		w := dictionary[n%len(dictionary)]
		return fmt.Sprintf("Translate the English word \"%s\" into %s. One word.", w.english, w.language), w.word
	}},
	{"code", func(n int) (string, string) {
		a, b := 2+n%6, 3+n%4+4*(n/12)
		return fmt.Sprintf("What does this Python program print?\n\nx = 0\nfor i in range(%d):\n    x += %d\nprint(x)\n", a, b), fmt.Sprint(a * b)
	}},
	{"code-list", func(n int) (string, string) {
		v := []int{4 + n, 9 + n%3, 2 + n%5, 15 - n%4}
		return fmt.Sprintf("What does this Python program print?\n\nprint(max([%d, %d, %d, %d]))\n", v[0], v[1], v[2], v[3]), fmt.Sprint(slices.Max(v))
	}},
	{"logic", func(n int) (string, string) {
		a, b, c := names[n%len(names)], names[(n+2)%len(names)], names[(n+5)%len(names)]
		r := relations[n/len(names)%len(relations)]
		return fmt.Sprintf("%s is %s than %s, and %s is %s than %s. Who is the %s of the three? One name.", a, r[0], b, b, r[0], c, r[1]), c
	}},
	{"yes-no", func(n int) (string, string) {
		k := 10 + n
		answer := "no"
		if k%2 == 0 {
			answer = "yes"
		}
		return fmt.Sprintf("Is %d an even number? Answer yes or no.", k), answer
	}},
	{"opposite", func(n int) (string, string) {
		w := opposites[n%len(opposites)]
		return fmt.Sprintf("What is the opposite of \"%s\"? One word.", w[0]), w[1]
	}},
	{"sentiment", func(n int) (string, string) {
		r := reviews[n%len(reviews)]
		return fmt.Sprintf("Is this review positive or negative? \"%s %s\" One word.", r.text, closings[n/len(reviews)%len(closings)]), r.mood
	}},
	{"calendar", func(n int) (string, string) {
		return fmt.Sprintf("Today is %s. Which day of the week is it in %d days? One word.", days[n%len(days)], 1+n%5), days[(n+1+n%5)%len(days)]
	}},
}

// BuiltIn is the set of golden prompts that comes with the product: short tasks whose right answers
// are known, made from templates of our own.
func BuiltIn() []load.GoldPrompt {
	var all []load.GoldPrompt
	for n := range perKind {
		for _, k := range kinds {
			task, expect := k.make(n)
			all = append(all, load.GoldPrompt{
				ID: fmt.Sprintf("%s-%d", k.name, n+1), Prompt: "Task: " + strings.TrimSpace(task) + "\nAnswer:", Expect: expect, MaxTokens: 24,
			})
		}
	}
	return all
}

var (
	names  = []string{"Amara", "Bjorn", "Chiara", "Dmitri", "Elif", "Farid", "Greta", "Hiro", "Ines"}
	things = []string{"apples", "stamps", "marbles", "books", "tickets"}
	days   = []string{"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"}
	cities = []string{"Lisbon", "Oslo", "Nairobi", "Lima", "Hanoi", "Prague", "Quito", "Tunis"}

	dictionary = []struct{ english, language, word string }{
		{"house", "Spanish", "casa"},
		{"water", "French", "eau"},
		{"night", "German", "Nacht"},
		{"book", "Italian", "libro"},
		{"bread", "French", "pain"},
		{"dog", "Spanish", "perro"},
		{"tree", "German", "Baum"},
		{"milk", "Italian", "latte"},
		{"red", "Spanish", "rojo"},
		{"cat", "French", "chat"},
		{"day", "German", "Tag"},
		{"sun", "Spanish", "sol"},
		{"hand", "French", "main"},
		{"bird", "German", "Vogel"},
		{"door", "Spanish", "puerta"},
		{"fish", "Italian", "pesce"},
	}
	relations = [][2]string{{"taller", "shortest"}, {"older", "youngest"}}
	opposites = [][2]string{
		{"hot", "cold"},
		{"early", "late"},
		{"full", "empty"},
		{"strong", "weak"},
		{"open", "closed"},
		{"noisy", "quiet"},
		{"wet", "dry"},
		{"cheap", "expensive"},
		{"near", "far"},
		{"old", "new"},
		{"light", "dark"},
		{"fast", "slow"},
		{"left", "right"},
		{"up", "down"},
		{"begin", "end"},
		{"win", "lose"},
	}
	reviews = []struct{ text, mood string }{
		{"The screen broke after two days and nobody answered my letters.", "negative"},
		{"It arrived early, works perfectly and the colour is lovely.", "positive"},
		{"The soup was cold and the waiter ignored us for an hour.", "negative"},
		{"Our room was spotless and the staff could not have been kinder.", "positive"},
		{"I regret every cent that I paid for this kettle.", "negative"},
		{"The best concert of the year, I would go again tomorrow.", "positive"},
		{"The seats were broken and the sound was awful.", "negative"},
		{"My children laughed the whole afternoon, a wonderful park.", "positive"},
	}
	closings = []string{"That is all I can say.", "This is my honest opinion."}
)
