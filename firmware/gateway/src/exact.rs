//! Credit at an orchestrator as an exact number: tickets are fractions of wei, and so are prices.
//!
//! Everything is counted in units of `1 / ((2²⁵⁶ − 1) × denominator)` wei, where the denominator is the least
//! common multiple of the prices' pixels-per-unit seen so far.
use primitive_types::{U256, U512};

use livepeer::price::PricePerPixel;
use livepeer::units::{ExpectedValue, Pixels, Wei};

/// The stock gateway multiplies its estimate by the floating-point number 1.02; this is that number, exactly:
/// the numerator over 2⁵².
const MARGIN_NUMERATOR: u64 = 4_593_671_619_917_906;
const MARGIN_SHIFT: u32 = 52;

/// A sum does not fit 512 bits: the offer's numbers are absurd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the offer's numbers are out of all proportion")]
pub struct Overflow;

/// Credit bought minus fees, exactly. May be negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Balance {
    credit: U512,
    debit: U512,
    denominator: u64,
}

impl Default for Balance {
    fn default() -> Self {
        Self { credit: U512::zero(), debit: U512::zero(), denominator: 1 }
    }
}

impl Balance {
    /// Adds the value of some tickets.
    pub(crate) fn credit(&mut self, each: ExpectedValue, tickets: u32) -> Result<(), Overflow> {
        let value = product(each.numerator(), &[tickets.into(), self.denominator])?;
        self.credit = self.credit.checked_add(value).ok_or(Overflow)?;
        Ok(())
    }

    /// Subtracts the fee for some pixels.
    pub(crate) fn debit(&mut self, pixels: Pixels, price: PricePerPixel) -> Result<(), Overflow> {
        self.make_divisible_by(price.parts().1)?;
        let fee = fee_units(pixels, price, self.denominator)?;
        self.debit = self.debit.checked_add(fee).ok_or(Overflow)?;
        Ok(())
    }

    /// Takes another balance into this one.
    pub(crate) fn merge(&mut self, mut other: Self) -> Result<(), Overflow> {
        self.make_divisible_by(other.denominator)?;
        other.make_divisible_by(self.denominator)?;
        self.credit = self.credit.checked_add(other.credit).ok_or(Overflow)?;
        self.debit = self.debit.checked_add(other.debit).ok_or(Overflow)?;
        Ok(())
    }

    /// How many tickets are to be added before a segment of about so many pixels: the larger of its fee with
    /// the margin and one ticket, less what is there, rounded up to whole tickets.
    pub(crate) fn tickets_due(
        mut self,
        pixels: Pixels,
        price: PricePerPixel,
        each: ExpectedValue,
    ) -> Result<u32, Overflow> {
        if each.numerator().is_zero() {
            return Ok(0);
        }
        self.make_divisible_by(price.parts().1)?;
        let fee = product(fee_units(pixels, price, self.denominator)?, &[MARGIN_NUMERATOR])?;
        let ticket = shifted(product(each.numerator(), &[self.denominator])?)?;
        let wanted = fee.max(ticket).checked_add(shifted(self.debit)?).ok_or(Overflow)?;
        let gap = wanted.saturating_sub(shifted(self.credit)?);
        let (tickets, rest) = gap.div_mod(ticket);
        let tickets = if rest.is_zero() { tickets } else { tickets.checked_add(U512::one()).ok_or(Overflow)? };
        u32::try_from(tickets).map_err(|_| Overflow)
    }

    /// Credit left in whole wei, rounded down; zero when negative.
    pub(crate) fn to_wei_floor(self) -> Wei {
        let unit = U512::from(U256::MAX) * U512::from(self.denominator);
        let whole = self.credit.saturating_sub(self.debit).checked_div(unit).unwrap_or_default();
        Wei(U256::try_from(whole).unwrap_or(U256::MAX))
    }

    fn make_divisible_by(&mut self, denominator: u64) -> Result<(), Overflow> {
        let missing = denominator / gcd(self.denominator, denominator).max(1);
        self.credit = product(self.credit, &[missing])?;
        self.debit = product(self.debit, &[missing])?;
        self.denominator = self.denominator.checked_mul(missing).ok_or(Overflow)?;
        Ok(())
    }
}

/// The fee in our units; the denominator is a multiple of the price's.
fn fee_units(pixels: Pixels, price: PricePerPixel, denominator: u64) -> Result<U512, Overflow> {
    let (wei, per) = price.parts();
    let scale = denominator.checked_div(per).ok_or(Overflow)?;
    product(U512::from(U256::MAX), &[pixels.0, wei, scale])
}

fn product(value: U512, factors: &[u64]) -> Result<U512, Overflow> {
    factors.iter().try_fold(value, |product, factor| product.checked_mul(U512::from(*factor)).ok_or(Overflow))
}

fn shifted(value: U512) -> Result<U512, Overflow> {
    product(value, &[1 << MARGIN_SHIFT])
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use livepeer::units::WinProb;

    #[test]
    fn the_margin_is_the_float_the_stock_gateway_uses() {
        let bits = 1.02f64.to_bits();
        assert_eq!(bits >> 52, 1023, "between one and two");
        assert_eq!((bits & ((1 << 52) - 1)) | 1 << 52, MARGIN_NUMERATOR);
    }

    #[test]
    fn thirds_of_a_wei_add_up() {
        let third = PricePerPixel::new(1, 3).unwrap();
        let half = PricePerPixel::new(1, 2).unwrap();
        let mut balance = Balance::default();
        balance.credit(ExpectedValue::of(Wei::from(2), WinProb::ALWAYS), 1).unwrap();
        for _ in 0..3 {
            balance.debit(Pixels(1), third).unwrap();
        }
        assert_eq!(balance.to_wei_floor(), Wei::from(1));
        balance.debit(Pixels(2), half).unwrap();
        assert_eq!(balance.credit, balance.debit);
    }

    #[test]
    fn a_debt_is_paid_with_the_next_segment() {
        let price = PricePerPixel::new(1, 1).unwrap();
        let ticket = ExpectedValue::of(Wei::from(10), WinProb::ALWAYS);
        let mut balance = Balance::default();
        assert_eq!(balance.tickets_due(Pixels(10), price, ticket), Ok(2), "10.2 wei in tickets of 10");
        balance.debit(Pixels(15), price).unwrap();
        assert_eq!(balance.tickets_due(Pixels(10), price, ticket), Ok(3), "25.2 wei");
        balance.credit(ticket, 4).unwrap();
        assert_eq!(balance.tickets_due(Pixels(10), price, ticket), Ok(0));
    }

    #[test]
    fn absurd_numbers_are_refused_and_do_not_panic() {
        let price = PricePerPixel::new((i64::MAX - 1) as u64, 1).unwrap();
        let ticket = ExpectedValue::of(Wei(U256::MAX), WinProb(U256::MAX));
        let mut balance = Balance::default();
        assert_eq!(balance.credit(ticket, u32::MAX), Err(Overflow));
        assert_eq!(Balance::default().tickets_due(Pixels(u64::MAX), price, ticket), Err(Overflow));
        let tiny = ExpectedValue::of(Wei::from(1), WinProb(1.into()));
        assert_eq!(Balance::default().tickets_due(Pixels(1 << 40), price, tiny), Err(Overflow));
    }
}
