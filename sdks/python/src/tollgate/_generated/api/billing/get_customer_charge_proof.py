from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import httpx

from ... import errors
from ...client import AuthenticatedClient, Client
from ...models.proof import Proof
from ...types import Response


def _get_kwargs(
    customer: str,
    charge: str,
) -> dict[str, Any]:

    _kwargs: dict[str, Any] = {
        "method": "get",
        "url": "/admin/customers/{customer}/charges/{charge}/proof".format(
            customer=quote(str(customer), safe=""),
            charge=quote(str(charge), safe=""),
        ),
    }

    return _kwargs


def _parse_response(*, client: AuthenticatedClient | Client, response: httpx.Response) -> Proof | None:
    if response.status_code == 200:
        response_200 = Proof.from_dict(response.json())

        return response_200

    if client.raise_on_unexpected_status:
        raise errors.UnexpectedStatus(response.status_code, response.content)
    else:
        return None


def _build_response(*, client: AuthenticatedClient | Client, response: httpx.Response) -> Response[Proof]:
    return Response(
        status_code=HTTPStatus(response.status_code),
        content=response.content,
        headers=response.headers,
        parsed=_parse_response(client=client, response=response),
    )


def sync_detailed(
    customer: str,
    charge: str,
    *,
    client: AuthenticatedClient,
) -> Response[Proof]:
    """Returns the calculation of a charge.

    Args:
        customer (str): Id of a customer: chosen at creation, or drawn as `cus_` and 20 letters
            and digits. It must not
            identify a person: it stays in usage and ledger when the customer is erased.
        charge (str): Id of a charge: customer, month, and number within the month.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[Proof]
    """

    kwargs = _get_kwargs(
        customer=customer,
        charge=charge,
    )

    response = client.get_httpx_client().request(
        **kwargs,
    )

    return _build_response(client=client, response=response)
